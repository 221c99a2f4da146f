"""A pair of Keras models in PyTorch: the same layers, weights, optimizer, objective and batches, in a usual loop."""

from collections.abc import Callable, Iterator

import contestants
import keras
import numpy as np
import torch
from contestants import Task
from torch import nn
from torch.nn import functional


def trainer(
    task: Task,
    compiled: bool,
    device: str = "cpu",
    models: tuple[nn.Module, nn.Module] | None = None,
    autocast: torch.dtype | None = None,
) -> tuple[Callable[[], float], nn.Module]:
    """Return a function that takes `task.steps` training steps and waits for them, and the student that they train.

    Args:
        task: what is trained.
        compiled: whether `torch.compile` compiles the forward passes and the loss.
        device: where.
        models: teacher and student. None: those of the task, of convolutions, pooling, dropout and dense layers.
        autocast: the type of mixed precision.
    """
    torch.manual_seed(0)
    teacher, student = models or (converted(task.teacher()), converted(task.student()))
    teacher, student = teacher.to(device).eval(), student.to(device).train()
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-3, eps=1e-7)  # Keras's epsilon
    loss_of = torch.compile(objective) if compiled else objective
    batches = _batches(task, device)
    scaler = torch.amp.GradScaler(device, enabled=autocast is torch.float16)

    def steps() -> float:
        for _ in range(task.steps):
            x, y = next(batches)
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, autocast, enabled=autocast is not None):
                loss = loss_of(student, teacher, x, y)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        return float(loss.detach())

    return steps, student


def objective(student: nn.Module, teacher: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    temperature, alpha = contestants.TEMPERATURE, contestants.ALPHA
    with torch.no_grad():
        target = functional.log_softmax(teacher(x).flatten(0, -2) / temperature, -1)
    logits = student(x).flatten(0, -2)
    log_probabilities = functional.log_softmax(logits / temperature, -1)
    soft = temperature**2 * functional.kl_div(log_probabilities, target, reduction="batchmean", log_target=True)
    return alpha * soft + (1 - alpha) * functional.cross_entropy(logits, y.flatten())


def image_models(classes: int) -> tuple[nn.Module, nn.Module]:
    """Return torchvision's ResNet-50 and MobileNetV3."""
    import torchvision

    return torchvision.models.resnet50(num_classes=classes), torchvision.models.mobilenet_v3_small(num_classes=classes)


class Encoder(nn.Module):
    """An encoder of token ids that ends in logits, of the sequence or of each position."""

    def __init__(
        self, words: int, length: int, width: int, blocks: int, heads: int, classes: int, pool: bool = True
    ) -> None:
        super().__init__()
        self.pool, self.words, self.places = pool, nn.Embedding(words, width), nn.Embedding(length, width)
        block = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True)
        self.blocks, self.head = nn.TransformerEncoder(block, blocks), nn.Linear(width, classes)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.words(ids) + self.places.weight)
        return self.head(x.mean(1) if self.pool else x)


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
    x = torch.from_numpy(x)
    return (x.permute(0, 3, 1, 2).contiguous() if x.ndim == 4 else x.long()).to(device)
