"""What serving one dataset costs: time of the extracted and of the folded network, memory of N networks.

Run: python benchmarks/serve.py           (256x256, CPU; about 5 minutes on 2 cores)
Writes: benchmarks/results/serve.csv and serve.json (versions, commit, settings).
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Iterable
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
from paired import RESULTS, ratios, row, write
from torch import nn

import dabnn

CLASSES = 19
SERVED = 8


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=31)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    rows = [row for name, plain in networks().items() for row in times(name, plain, args.size, args.pairs)]
    plain = networks()["PSPNet-R18 at output stride 8"]
    aware = dabnn.convert_to_dataset_aware(copy.deepcopy(plain), SERVED, num_classes=[CLASSES] * SERVED)
    served = [dabnn.extract_dataset(aware, i, copy=False) for i in range(SERVED)]
    one = stored_bytes([plain])
    rows.append(row(f"memory, {SERVED} networks that share / one", [stored_bytes(served) / one]))
    rows.append(row("file of one dataset / whole network", [file_bytes(aware) / one]))
    write("serve", rows, {"size": args.size}, args.output)


def networks() -> dict[str, nn.Module]:
    """SMP's default, which runs three stages of the encoder, and the paper's, dilated to output stride 8."""
    torch.manual_seed(0)
    deep = {"encoder_depth": 5, "output_stride": 8, "upsampling": 8}
    return {
        "PSPNet-R18 of SMP": smp.PSPNet("resnet18", encoder_weights=None, classes=CLASSES).eval(),
        "PSPNet-R18 at output stride 8": smp.PSPNet(
            "tu-resnet18", encoder_weights=None, classes=CLASSES, **deep
        ).eval(),
    }


def times(name: str, plain: nn.Module, size: int, pairs: int) -> list[dict[str, object]]:
    """Time of the extracted and of the folded network against the plain one."""
    aware = dabnn.convert_to_dataset_aware(copy.deepcopy(plain), 2)
    others = {"extracted": dabnn.extract_dataset(aware, 1), "folded": dabnn.fold_batch_norm(plain)}
    rows = []
    with torch.inference_mode():
        for batch in (8, 1):
            images = torch.randn(batch, 3, size, size)
            for kind, other in others.items():
                found = ratios(lambda m=other, x=images: m(x), lambda x=images: plain(x), pairs)
                rows.append(row(f"{name}: {kind} / plain, batch {batch}", found))
    return rows


def stored_bytes(models: Iterable[nn.Module]) -> int:
    """Bytes of all weights and buffers, those that are shared counted once."""
    storages = [t.untyped_storage() for model in models for t in (*model.parameters(), *model.buffers())]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def file_bytes(model: nn.Module) -> int:
    with tempfile.TemporaryDirectory() as folder:
        dabnn.save_dataset(model, 1, f"{folder}/branch")
        return sum(file.stat().st_size for file in Path(folder, "branch").iterdir())


if __name__ == "__main__":
    main()
