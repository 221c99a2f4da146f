"""Data of what a student writes while it learns, mixed with a teacher's text and with given examples.

On-policy distillation trains a student where it goes wrong: on its own continuations of prompts, scored by the teacher.
What is written is data, made between epochs; the step knows where a row came from only if a term reads that.
"""

import json
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_kd._internal import soft_targets
from keras_kd._internal.written_examples import LiveTeacher, Targets, WrittenExamples
from keras_kd._types import Schedule, Tensors
from keras_kd.language import prompt_tokens
from keras_kd.language.completion_examples import Examples
from keras_kd.language.decoding import Sampling, check_sampling
from keras_kd.language.rollout_callbacks import RolloutLogs, RolloutStart
from keras_kd.language.rollout_checks import check_followed, check_same, check_sizes, checked
from keras_kd.language.rollout_rows import Rows, empty
from keras_kd.language.rollout_shares import Shares
from keras_kd.language.rollout_targets import RolloutTargets
from keras_kd.language.row_maker import row_maker
from keras_kd.language.row_turns import RowTurns
from keras_kd.language.text_scores import Score
from keras_kd.teachers import as_teacher
from keras_kd.teachers.base import AnyTeacher


class Rollouts(WrittenExamples):
    """Let the student that is trained continue prompts, and give that to `fit` as examples.

    An epoch has `every` steps. Before it, the student as it is then writes the rows of `every * batch_size` examples,
    or, with `replay=k`, a k-th part of them in the place of the oldest, so that each is used in k epochs (of the first
    ones, some in fewer). Learned is what was written, to the first stop token; prompts are not.

    A row is the student's with a probability of `student_share`, the teacher's with `teacher_share`, else one of
    `data`. Shares are read at the optimizer's step at which rows are written. The logs have what the rows of an epoch
    are: `rollouts_student` and `rollouts_teacher`, their shares; `rollouts_age`, how many steps ago they were written,
    on average, at the beginning of the epoch; `rollouts_time`, the share of the epoch's time in which they were;
    `rollouts_teacher_time`, that of the teacher; `rollouts_student_time`, the rest.

    Under `teachers.InMemory`, a row is given to the teacher once, when it is written, and its targets are kept as long
    as the row: with `replay`, the teacher has less to do. The time of a teacher that runs live is inside of the steps:
    after the first epoch, it is run four times on one batch, and the median of the last three counts once for each
    step (not of a teacher that reads the student, under a fused head, or on several replicas). A run that is continued
    makes the targets of the rows that it finds anew.

    Under terms with `rows={"origin": ...}`, and under terms and teachers that read `columns`, x is a `keras_kd.Joined`.
    A `teachers.Routed` may score rows and write them: each of its teachers those of its own prompts. Files of the
    Distiller hold the rows and what is drawn next: `keras.callbacks.BackupAndRestore` goes on with both.

    Args:
        prompts: token ids of each, at least one token; of a task of KerasHub with its preprocessor, texts as well. Each
            pass over them is in another order.
        student: the student of the Distiller that is trained: a causal language model of token ids, (batch, tokens), or
            of a dict of "token_ids" and "padding_mask". A task of KerasHub generates by its `generate_step`, any other
            model reads all tokens again for each new one. Its `preprocessor` has to be None in `fit`.
        teacher: writes the rows of `teacher_share`, with the same settings. Not needed without these.
        data: examples for the other rows, as `language.completions` and `language.generate` return them: x, y and
            sample_weight, (examples, tokens). With `columns`, x is a `keras_kd.Joined` that has the same ones.
        length: tokens of a completion, at least 1, with its stop token.
        student_share: probability that a row is the student's, 0 to 1: a number, a schedule of the optimizer's step, or
            an `AdaptiveShare`, which follows the validation loss.
        teacher_share: that it is the teacher's.
        teacher_mix: share of the teacher in the distribution that each token of the student's rows is drawn from, 0 to
            less than 1: (1 - teacher_mix) * q + teacher_mix * p keeps texts from going astray that no teacher would
            write. A token's `sample_weight` is then its q / that, as if the student had drawn it. All tokens are read
            again for each new one.
        batch_size: rows of a step.
        generation_batch_size: rows that are generated at a time. None: on an accelerator as many as memory allows; on
            processors, where more are no faster, those of a step. What is drawn does not depend on it.
        every: steps of an epoch, which all read what was written before it.
        replay: epochs in which a row is used, at least 1 and at most the rows of an epoch: a number, or a schedule of
            the optimizer's step, at which rows are written.
        temperature: T of the distribution that tokens are drawn from; 0 takes the most likely token.
        top_p: tokens are drawn from the most likely ones that together have this probability, above 0 to 1. As long as
            both are 1, what is learned from is what the student writes.
        stop_ids: tokens that end a completion. None: the end tokens of a task's own tokenizer; without one, all
            completions have `length` tokens.
        pad: token that fills rows up.
        seed: of all that is drawn.
        columns: by name, a whole number for each prompt, (prompts,), which its rows carry: for `teachers.Routed`, or
            the `rows` of a term.
        score: what a text weighs: a function of x, y and sample_weight, as `completions` returns them, to a number from
            0 on for each text, (texts,). The `sample_weight` of all tokens of a row that a model has written is
            multiplied by it, once; 0 leaves a row out. For the teacher's own score see `mean_log_probability`.

    Attributes:
        origins: where each row of the epoch comes from: 0 the student, 1 the teacher, 2 `data`; (rows,).
        settings: how rows are made, by name.
        seconds: that the writing before the epoch took.

    Raises:
        ValueError: a number out of range; shares that sum to more than 1, or to less without `data`; a `teacher_share`
            without a teacher; an empty prompt; what does not fit into a model; a model that predicts NaN; columns or a
            score that are not as described. In `fit`, under `methods.minillm`: texts that are not drawn from the
            student as it is.
        TypeError: `student` is no Keras model; texts for a model without a tokenizer.

    Example:
        >>> ramp = schedules.Ramp(0.0, 1.0, steps=1000)
        >>> rollouts = Rollouts(prompts, student=student, data=examples, length=64, student_share=ramp)
        >>> distiller = Distiller(student=student, teacher=teacher, terms=methods.gkd(beta=1.0))
        >>> distiller.compile("adam", alpha=1.0)
        >>> distiller.fit(rollouts, epochs=100)

    Reference: Agarwal et al., On-Policy Distillation of Language Models, 2023, arXiv 2306.13649; `replay`: Ko et al.,
    DistiLLM, 2024, arXiv 2402.03898; `teacher_mix`: Gu et al., MiniLLM, 2023, arXiv 2306.08543.
    """

    state_names = (*Rows._fields, "counters", "settings", "shares")
    seconds = 0.0
    _optimizer: Any = None
    _epoch, _began = -1, 0
    _rows: Rows | None = None
    _targets: RolloutTargets | None = None
    _is_ahead, _waits = False, False
    _carried: Collection[str] = ()

    def __init__(
        self,
        prompts: Sequence[Any],
        *,
        student: keras.Model,
        teacher: AnyTeacher | None = None,
        data: Examples | None = None,
        length: int,
        student_share: Schedule = 1.0,
        teacher_share: Schedule = 0.0,
        teacher_mix: float = 0.0,
        batch_size: int = 32,
        generation_batch_size: int | None = None,
        every: int = 16,
        replay: Schedule = 1,
        temperature: float = 1.0,
        top_p: float = 1.0,
        stop_ids: Sequence[int] | None = None,
        pad: int = 0,
        seed: int = 0,
        columns: Mapping[str, Any] | None = None,
        score: Score | None = None,
    ) -> None:
        super().__init__()
        self.student = checked(student)
        sampling = Sampling(length, temperature, top_p, prompt_tokens.stop_ids(as_teacher(student), stop_ids))
        check_sampling(sampling)
        check_sizes(batch_size, generation_batch_size, every, replay)
        self._count, self._batch_size = batch_size * every, batch_size
        self._turns = RowTurns(self._count, replay).checked()
        self._shares = Shares(student_share, teacher_share, teacher is not None, data is not None).checked()
        self._maker = row_maker(
            prompts,
            data,
            columns,
            student=student,
            teacher=None if teacher is None else as_teacher(teacher),
            teacher_mix=teacher_mix,
            sampling=sampling,
            score=score,
            batch_size=batch_size,
            generation_batch_size=generation_batch_size,
            pad=pad,
            seed=seed,
        )
        self.settings = {
            **{**sampling._asdict(), "stop_ids": list(sampling.stop_ids)},
            **{**self._turns.settings, **self._shares.settings, "batch_size": batch_size, "every": every},
            **{"teacher_mix": teacher_mix, "pad": pad, "seed": seed, "prompts": self._maker.digest},
        }

    @property
    def origins(self) -> np.ndarray:
        """Where each row comes from."""
        return self._written.origin

    def __len__(self) -> int:
        """Return the number of steps of an epoch."""
        return self._count // self._batch_size

    def __getitem__(self, index: int) -> Any:
        """Return a batch of x, y and sample_weight."""
        is_empty = self._rows is None and self._waits
        rows = self._empty() if is_empty else self._written
        order = np.random.default_rng([self._maker.seed, 0, max(self._epoch, 0)]).permutation(self._count)
        places = order[index * self._batch_size : (index + 1) * self._batch_size]
        batch = Rows(*(each[places] for each in rows))
        x = self._x(batch)
        if self._targets is not None:
            targets = self._targets.make(x) if is_empty else self._targets.of(self._x(rows), places)
            x = soft_targets.with_targets(x, targets)
        return x, batch.y, batch.sample_weight

    def on_epoch_begin(self) -> None:
        """Let the student, as it is now, write the rows of the epoch, or some of them."""
        if self._waits:
            return
        if not self._is_ahead or self._began != self._step():
            self._write()
        self._is_ahead = False

    def join(self, targets: Targets | None) -> None:
        """Let x carry a teacher's targets, which are made once of each row; None: let it carry none."""
        self._targets = None if targets is None else RolloutTargets(targets)

    def follow(self, distiller: Any, steps_per_epoch: int | None = None, validates: bool = False) -> None:
        """Prepare for the `fit` of a Distiller: its optimizer counts the steps.

        Raises:
            ValueError: another student is trained; it still preprocesses examples of its own; `fit` was given another
                number of steps, or no validation data for a share that follows them.
        """
        check_followed(self, distiller, steps_per_epoch)
        for share in self._shares.adaptive:
            share.follow(distiller, validates)
        self._optimizer, self._carried = distiller.optimizer, distiller.columns
        self.join(None)
        # Keras looks at some batches before callbacks restore what was saved: nothing is to be written for these.
        self._waits = True

    def callbacks(self, live_teacher: LiveTeacher | None) -> tuple[list[Any], list[Any]]:
        """Return what begins to write, behind all other callbacks, and what logs, before these."""
        return [RolloutStart(self)], [RolloutLogs(self, live_teacher)]

    def begin(self) -> None:
        """Write from now on: what was saved is restored."""
        self._waits = False

    def adapt(self, logs: dict[str, Any]) -> None:
        """Let shares follow the logs of an epoch."""
        for share in self._shares.adaptive:
            share.update(logs)

    def report(self) -> dict[str, float]:
        """Return what the rows of the epoch are, by its names in the logs."""
        return {f"rollouts_{name}": value for name, value in self._written.described(self._began).items()}

    @property
    def times(self) -> dict[str, float]:
        """Seconds before the epoch in which rows were written, and in which they were given to a teacher in memory."""
        of_teacher = {} if self._targets is None else {"rollouts_teacher_time": self._targets.seconds}
        return {"rollouts_time": self.seconds, **of_teacher}

    def state(self) -> dict[str, np.ndarray]:
        """Return what a file has to hold, as arrays by name; empty before the first epoch."""
        if self._rows is None:
            return {}
        settings = np.frombuffer(json.dumps(self.settings).encode(), "uint8")
        counters = np.array([self._epoch, self._turns.drawn, self._turns.due])
        return {**self._rows._asdict(), "counters": counters, "settings": settings, "shares": self._shares.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` has returned.

        Raises:
            ValueError: it is of rollouts with other settings, with what differs.
        """
        check_same(self.settings, json.loads(bytes(np.asarray(state["settings"])).decode()))
        self._rows = Rows(*(np.asarray(state[name]) for name in Rows._fields))
        epoch, drawn, due = np.asarray(state["counters"])
        self._epoch, self._turns = int(epoch), self._turns._replace(drawn=int(drawn), due=float(due))
        self._shares.restore(np.asarray(state["shares"]))
        self._is_ahead = False
        if self._targets is not None:
            self._targets.forget()

    @property
    def _written(self) -> Rows:
        """The rows of the epoch; those of the first are written when they are read before it begins."""
        if self._rows is None:
            self._is_ahead = True
            return self._write()
        return self._rows

    def _write(self) -> Rows:
        """Write rows in the place of the oldest, and return all."""
        began = time.perf_counter()
        self._began = self._step()
        epoch, turns = self._epoch + 1, self._turns.next(self._began)
        self._shares.check_led(epoch)
        rows = self._empty() if self._rows is None else Rows(*map(np.array, self._rows))
        uniform = np.random.default_rng([self._maker.seed, 4, epoch]).random(self._count)[turns.places]
        origins = self._shares.origins(self._began, uniform)
        self._maker.fill(rows, turns.places, origins, epoch, self._turns.drawn)
        rows.step[turns.places] = self._began
        self._rows, self._epoch, self._turns = rows, epoch, turns
        self.seconds = time.perf_counter() - began
        if self._targets is not None:
            self._targets.renew(self._x(rows), turns.places)
        return rows

    def _x(self, rows: Rows) -> Tensors:
        """Return what the student reads of rows, with the columns that terms and teachers read."""
        return soft_targets.with_columns(rows.read_by(self.student), self._maker.columns.of(rows, self._carried))

    def _step(self) -> int:
        optimizer = self._optimizer or getattr(self.student, "optimizer", None)  # of a student that is trained alone
        return 0 if optimizer is None else int(keras.ops.convert_to_numpy(optimizer.iterations))

    def _empty(self) -> Rows:
        return empty(self._count, self._maker.width, self._maker.pad)
