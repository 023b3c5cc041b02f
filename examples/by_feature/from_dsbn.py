"""Take over a checkpoint of DSBN, and go on with a classifier for each dataset."""

from __future__ import annotations

import argparse

import segmentation_models_pytorch as smp
import torch

import dabnn
from dabnn.data import TOY_DATASETS, SeededLoader, ToyStreets


# New code #
class DomainSpecificBatchNorm2d(torch.nn.Module):
    """The layer of DSBN: one norm for each domain, chosen by a label."""

    def __init__(self, norm: torch.nn.BatchNorm2d, domains: int) -> None:
        super().__init__()
        self.bns = torch.nn.ModuleList(torch.nn.BatchNorm2d(norm.num_features) for _ in range(domains))


def write_dsbn_checkpoint(path: str) -> None:
    """Write what training with DSBN leaves behind; yours is there already."""
    model = smp.Unet("resnet18", encoder_weights=None, classes=11)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, torch.nn.BatchNorm2d):
                setattr(module, name, DomainSpecificBatchNorm2d(child, len(TOY_DATASETS)))
    torch.save({"model": model.state_dict()}, path)


# End of new code #
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps
    torch.manual_seed(0)

    train = {name: ToyStreets(name) for name in TOY_DATASETS}
    val = {name: ToyStreets(name, "val") for name in TOY_DATASETS}
    loaders = {name: SeededLoader(city, batch_size=8) for name, city in train.items()}
    val_loaders = {name: SeededLoader(city, 8, shuffle=False, drop_last=False) for name, city in val.items()}

    model = smp.Unet("resnet18", encoder_weights=None)
    widths = [len(city.classes) for city in train.values()]
    dabnn.convert_to_dataset_aware(model, dataset_names=TOY_DATASETS, num_classes=widths)
    # New code #
    write_dsbn_checkpoint("dsbn.pth")
    state = torch.load("dsbn.pth", weights_only=True)["model"]
    dabnn.load_state_dict(model, state, heads="skip")  # skips the classifiers that do not fit
    # End of new code #

    trainer = dabnn.AlternationTrainer(model, loaders)
    trainer.fit(max_steps=steps)

    for name, result in trainer.evaluate(val_loaders).items():
        print(f"{name}: mIoU {result.miou:.1f} %")


if __name__ == "__main__":
    main()
