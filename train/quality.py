"""`python -m train.quality` runs `train.texture_mnist.quality`."""

from train.texture_mnist.quality import main

if __name__ == "__main__":
    main()
