"""A typical Lightning training script, for comparison; it is run as a file, in one process per run.

Usage: python plain_script.py DATA LOSS SEED BASE BATCH EPOCHS WORKERS PRECISION; DATA/train and DATA/val contain
images.npy and masks.npy.
"""

import sys
from pathlib import Path
from typing import Any

import albumentations as A
import numpy as np
import pytorch_lightning as pl
import segmentation_models_pytorch as smp
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch.utils.data import DataLoader, Dataset
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAccuracy, BinaryF1Score, BinaryJaccardIndex, BinaryPrecision, BinaryRecall

from seglab.models.unet import UNet

LOSSES = {
    "bce": torch.nn.BCEWithLogitsLoss(),
    "dice": smp.losses.DiceLoss("binary"),
    "iou": smp.losses.JaccardLoss("binary"),
    "focal": smp.losses.FocalLoss("binary"),
}


class Images(Dataset):
    """Arrays in memory, augmented one image at a time."""

    def __init__(self, folder: Path, augment: bool) -> None:
        self.images, self.masks = np.load(folder / "images.npy"), np.load(folder / "masks.npy")
        tone = A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.2, p=0.5)
        changes = [A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5), A.RandomRotate90(p=0.5), tone] if augment else []
        self.chain = A.Compose([*changes, A.Normalize(), A.ToTensorV2()])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        out = self.chain(image=self.images[k], mask=self.masks[k])
        return out["image"], out["mask"][None].float()


class Plain(pl.LightningModule):
    """Model, loss and five metrics, logged at every step."""

    def __init__(self, loss: str, base: int) -> None:
        super().__init__()
        self.model, self.loss = UNet(in_channels=3, base=base), LOSSES[loss]
        kinds = (BinaryAccuracy, BinaryF1Score, BinaryJaccardIndex, BinaryPrecision, BinaryRecall)
        metrics = MetricCollection([kind() for kind in kinds])
        self.metrics = torch.nn.ModuleDict({stage: metrics.clone(prefix=f"{stage}/") for stage in ("fit", "val")})

    def step(self, batch: tuple[torch.Tensor, torch.Tensor], stage: str) -> torch.Tensor:
        logits = self.model(batch[0])
        loss = self.loss(logits, batch[1])
        self.log(f"{stage}/loss", loss, on_step=stage == "fit", on_epoch=True)
        metrics: MetricCollection = self.metrics[stage]  # type: ignore[assignment]
        metrics(logits.sigmoid().float(), batch[1].int())
        self.log_dict(metrics, on_step=False, on_epoch=True)
        return loss

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        return self.step(batch, "fit")

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        return self.step(batch, "val")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main(folder: str, loss: str, *numbers: str) -> None:
    *integers, precision = numbers
    seed, base, batch, epochs, workers = map(int, integers)
    pl.seed_everything(seed)
    options: dict[str, Any] = {"batch_size": batch, "num_workers": workers, "persistent_workers": workers > 0}
    train = DataLoader(Images(Path(folder) / "train", augment=True), shuffle=True, **options)
    val = DataLoader(Images(Path(folder) / "val", augment=False), **options)
    run_folder = Path(folder) / f"{loss}-{seed}"
    checkpoint = ModelCheckpoint(run_folder, monitor="val/BinaryJaccardIndex", mode="max", save_last=True)
    trainer = pl.Trainer(
        max_epochs=epochs,
        precision=precision,  # type: ignore[arg-type]
        logger=CSVLogger(run_folder),
        callbacks=[checkpoint],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Plain(loss, base), train, val)


if __name__ == "__main__":
    main(*sys.argv[1:])
