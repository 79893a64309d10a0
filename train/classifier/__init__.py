"""Trains a classifier on labelled images with k-fold cross-validation: FastAblationCAM's training.

    python -m train.classifier --data POLEN23E --model densenet169 --start densenet169.safetensors
    python -m train.classifier --data polen/*.tfrecords --out runs/polen

`--data` is a folder with one sub-folder per class, or TFRecord files in the layout of POLEN23E. The
defaults are what we know of FastAblationCAM's training: DenseNet-169, images of 224 x 224, a
linear layer of 1664 before the classifier, 5 folds, 15 epochs, batches of 16, SGD at a rate of 0.02
(its file is restored with 0.005). The source states neither momentum nor augmentation; Keras's SGD
has no momentum, and by default there is neither here. By default its code freezes all layers before
the head, as `--freeze` does here. `segcam convert` makes a `--start` of torchvision's or Keras's
files.

Every fold trains a network of its own and keeps the weights of the epoch with the best accuracy on
the fold's images (the lower loss decides between equals). As each image is in one fold, the folds
together predict every image once, by a network that has not been trained on it. The same images
choose the epoch, so the scores are slightly optimistic.

Expected result on scikit-learn's handwritten digits, 1,797 images of ten classes:

    python -m train.classifier_samples digits runs/digits
    python -m train.classifier --data runs/digits --out runs/digits-resnet18 --model resnet18 \\
        --width 16 --size 32 --channels 1 --momentum 0.9 --schedule cosine --epochs 6

    all folds    accuracy 0.982 (by fold 0.992 0.989 0.975 0.981 0.972), F1 0.982, loss 0.058
    by class     recall 1.00 of 0, 1, 2 and 4; lowest of 9 (0.95) and 8 (0.96)

Cost: a minute for all five folds on two cores.

A run can be stopped (Ctrl-C saves first) or killed at any moment; the same command resumes it from
its last checkpoint and ends with the same weights, bit for bit on the same machine. `--only 2 4`
trains these folds alone; others can be added later. In `--out`:

    metrics.json, classes.csv, confusion.csv, confusion.png    of all finished folds together
    predictions.csv                                            of each image
    weights.safetensors                                        of the best fold; `models.load`
    foldN/              weights, metrics, history.jsonl, predictions, curves.png, checkpoints
"""

from train.classifier.config import ClassifierConfig as ClassifierConfig
from train.classifier.task import prepare as prepare, train as train
