"""Trains a segmentation network on images with masks.

    python -m train.segmentation --data defects --channels 1 --out runs/defects
    python -m train.segmentation --data annotations/panoptic_train2017.json \\
        --held-out annotations/panoptic_val2017.json --size 256 256
    python -m train.segmentation --recipe seg-grad-cam --data cityscapes --out runs/cityscapes

`--data` is a folder of images and masks (`train.data.mask_folders`), Cityscapes
(`train.data.cityscapes`) or COCO's panoptic annotations (`train.data.coco_panoptic`); the command
sees which from its contents. `--recipe seg-grad-cam` puts the settings of Seg-Grad-CAM's U-Net in
place of the defaults, and other options can still override them: four poolings and 32 channels,
images of 256 x 512, Adam at 0.0003 in batches of four for 70 epochs, cross-entropy, flips, and the
state of the lowest held-out loss. The source does not say how it flips images; here flips are left
to right. `--recipe seg-grad-cam-vgg16` is the U-Net with a VGG-16 of the same source: Dice and
focal loss, Adam at 0.00045, divided by ten if the held-out loss does not fall for ten epochs. The
source divides images by 255 twice in training, which we do not copy. Its number of epochs is not
known.

Scores are computed on held-out images: those that the dataset names, or a random fifth. As these
images also choose the best state, the scores are slightly optimistic.

Expected result on scratches and inclusions that a script draws, 240 images and 60 held-out images:

    python -m train.segmentation_samples runs/defects
    python -m train.segmentation --data runs/defects/train --held-out runs/defects/test \\
        --channels 1 --depth 3 --width 8 --epochs 30 --out runs/net

    mean IoU 0.905, mean Dice 0.948; of the defects IoU 0.816, precision 0.94, recall 0.86

Cost: 5 minutes and 20 seconds of CPU time on one core.

A run can be stopped (Ctrl-C saves first) or killed at any moment; the same command resumes it from
its last checkpoint and ends with the same weights, bit for bit on the same machine. In `--out`:

    metrics.json, history.jsonl, curves.png      scores of the best epoch and of all
    classes.csv                                  IoU, Dice, precision and recall of each class
    weights.safetensors                          of the best epoch: `segcam explain --weights OUT`
    checkpoints/last, checkpoints/best
"""

from train.segmentation.config import (
    RECIPES as RECIPES,
    SegmentationTraining as SegmentationTraining,
)
from train.segmentation.task import prepare as prepare, train as train
