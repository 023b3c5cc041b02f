"""Progress bar, CSV and TensorBoard logs, evaluation during training, a callback of your own."""

from __future__ import annotations

import argparse

import segmentation_models_pytorch as smp
import torch

import dabnn
from dabnn.data import TOY_DATASETS, SeededLoader, ToyStreets
from dabnn.training import Callback, CSVLogger, EvaluateEvery, ProgressBar, TensorBoardLogger


# New code #
class StopAtLoss(Callback):
    """Ends the training when every dataset's loss is low enough."""

    def __init__(self, loss: float) -> None:
        self.loss = loss

    def on_step_end(self, trainer, losses) -> None:
        """End the training after this step."""
        if max(losses.values()) < self.loss:
            trainer.stop()


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
    callbacks = [
        ProgressBar(),
        CSVLogger("runs/logging/metrics.csv"),
        TensorBoardLogger("runs/logging"),
        EvaluateEvery(val_loaders, every=100),
        StopAtLoss(0.1),
    ]
    trainer = dabnn.AlternationTrainer(model, loaders, callbacks=callbacks)
    # End of new code #
    trainer.fit(max_steps=steps)

    for name, result in trainer.evaluate(val_loaders).items():
        print(f"{name}: mIoU {result.miou:.1f} %")


if __name__ == "__main__":
    main()
