"""A pair of Keras models in PyTorch: the same layers, weights, optimizer, objective and batches, in a usual loop."""

from collections.abc import Callable, Iterator

import contestants
import keras
import numpy as np
import torch
from contestants import Task
from torch import nn
from torch.nn import functional


def trainer(task: Task, compiled: bool, device: str = "cpu") -> tuple[Callable[[], float], nn.Module]:
    """Return a function that takes `task.steps` training steps and waits for them, and the student that they train.

    Args:
        task: what is trained: models of convolutions, pooling, dropout and dense layers, on images.
        compiled: whether `torch.compile` compiles the forward passes and the loss.
        device: where.
    """
    torch.manual_seed(0)
    teacher, student = converted(task.teacher()).to(device).eval(), converted(task.student()).to(device).train()
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-3, eps=1e-7)  # Keras's epsilon
    loss_of = torch.compile(objective) if compiled else objective
    batches = _batches(task, device)

    def steps() -> float:
        for _ in range(task.steps):
            x, y = next(batches)
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(student, teacher, x, y)
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    return steps, student


def objective(student: nn.Module, teacher: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    temperature, alpha = contestants.TEMPERATURE, contestants.ALPHA
    with torch.no_grad():
        target = functional.log_softmax(teacher(x) / temperature, -1)
    logits = student(x)
    log_probabilities = functional.log_softmax(logits / temperature, -1)
    soft = temperature**2 * functional.kl_div(log_probabilities, target, reduction="batchmean", log_target=True)
    return alpha * soft + (1 - alpha) * functional.cross_entropy(logits, y)


def accuracy(student: nn.Module, x: np.ndarray, y: np.ndarray) -> float:
    """Return the share of images whose class the student predicts."""
    device = next(student.parameters()).device
    student.eval()
    with torch.no_grad():
        predicted = student(_images(x, str(device))).argmax(-1).cpu().numpy()
    student.train()
    return float(np.mean(predicted == y))


def converted(model: keras.Model) -> nn.Module:
    """Return a Sequential model of Keras as one of PyTorch, channels first, with the same weights."""
    parts: list[nn.Module] = []
    maps = None  # shape of the maps that a Flatten layer has made a row
    for layer in model.layers:
        match layer:
            case keras.layers.Conv2D():
                parts.append(_convolution(layer))
            case keras.layers.Dense():
                parts.append(_dense(layer, maps))
                maps = None
            case keras.layers.MaxPooling2D():
                parts.append(nn.MaxPool2d(layer.pool_size))
            case keras.layers.Dropout():
                parts.append(nn.Dropout(layer.rate))
            case keras.layers.Flatten():
                parts.append(nn.Flatten())
                maps = layer.input.shape[1:]
            case _:
                raise TypeError(f"Expected convolutions, pooling, dropout, dense layers. Received: {layer}")
        if getattr(layer, "activation", None) is keras.activations.relu:
            parts.append(nn.ReLU())
    return nn.Sequential(*parts)


class _Padded(nn.Module):
    """A convolution with the padding of TensorFlow's "same", which is not symmetric where it strides."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        padding: list[int] = []
        for size, stride in zip(x.shape[:1:-1], self.convolution.stride[::-1], strict=True):
            kernel = self.convolution.kernel_size[0]
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            padding += [total // 2, total - total // 2]
        return self.convolution(functional.pad(x, padding))


def _convolution(layer: keras.layers.Conv2D) -> nn.Module:
    kernel, bias = layer.get_weights()
    made = nn.Conv2d(*kernel.shape[2:], kernel.shape[:2], layer.strides)
    made.weight.data = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
    made.bias.data = torch.from_numpy(bias)
    return _Padded(made)


def _dense(layer: keras.layers.Dense, maps: tuple[int, ...] | None) -> nn.Linear:
    kernel, bias = layer.get_weights()
    made = nn.Linear(*kernel.shape)
    if maps is not None:  # PyTorch flattens channel by channel
        kernel = kernel.reshape(*maps, -1).transpose(2, 0, 1, 3).reshape(kernel.shape)
    made.weight.data = torch.from_numpy(kernel.T.copy())
    made.bias.data = torch.from_numpy(bias)
    return made


def _batches(task: Task, device: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    x, y = task.data
    images, labels = _images(x, device), torch.from_numpy(y).long().to(device)
    whole = len(x) // task.batch_size * task.batch_size
    while True:
        for start in range(0, whole, task.batch_size):
            yield images[start : start + task.batch_size], labels[start : start + task.batch_size]


def _images(x: np.ndarray, device: str) -> torch.Tensor:
    return torch.from_numpy(x).permute(0, 3, 1, 2).contiguous().to(device)
