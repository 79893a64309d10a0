"""The command line of `train.segmentation`."""

from train import command, segmentation
from train.segmentation.task import show

if __name__ == "__main__":
    show(
        command.run(
            segmentation.train,
            segmentation.SegmentationTraining,
            segmentation.__doc__,
            segmentation.RECIPES,
        )
    )
