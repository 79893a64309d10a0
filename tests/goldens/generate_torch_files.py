"""Writes `torch_zip.pth` and `torch_old.pth`: one state dict in both formats of `torch.save`.

    python tests/goldens/generate_torch_files.py        # torch 2.13

What they hold is written again in NumPy in `tests/weights/test_foreign.py`.
"""

from pathlib import Path

import torch

_FOLDER = Path(__file__).parent


def state() -> dict[str, torch.Tensor]:
    """Tensors of every kind that state dicts hold."""
    whole = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    module = torch.nn.Linear(2, 1)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[0.5, -2.0]]))
    return {
        "whole": whole,
        "turned": whole.permute(2, 0, 1),
        "part": whole[1, 1:, ::2],
        "spread": torch.tensor([[3.0], [4.0]]).expand(2, 3),
        "parameter": module.weight,
        "none": torch.zeros(0, 3),
        "bfloat16": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "float16": torch.tensor([1.5, -2.0], dtype=torch.float16),
        "float64": torch.tensor([1.5, -2.0], dtype=torch.float64),
        "count": torch.tensor(7),
        "bytes": torch.tensor([1, 255], dtype=torch.uint8),
        "truth": torch.tensor([True, False]),
    }


def main() -> None:
    """Writes both."""
    # Of a type of which no old file can be.
    new = {"float8": torch.tensor([1.5, -2.0]).to(torch.float8_e4m3fn)}
    about = {"epoch": 3, "shape": torch.Size((2, 3)), "device": torch.device("cpu")}
    torch.save({**about, "state_dict": {**state(), **new}}, _FOLDER / "torch_zip.pth")
    module = torch.nn.BatchNorm1d(1)
    old = module.state_dict()  # An ordered dictionary with an attribute.
    old.clear()
    old.update(state())
    torch.save(old, _FOLDER / "torch_old.pth", _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    main()
