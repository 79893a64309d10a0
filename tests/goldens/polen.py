"""The records of `polen.tfrecords`, and the script that writes it with TensorFlow.

    python tests/goldens/polen.py        # written with TensorFlow 2.21

Tests import the expected values from here; TensorFlow is imported by the script alone.
"""

from pathlib import Path

import numpy as np

PATH = Path(__file__).with_name("polen.tfrecords")
HEIGHT, WIDTH = 5, 4
FILES = (
    ("Arecaceae/arecaceae_1.jpg", 0),
    ("C:\\pollen\\Qualea\\qualea_2.jpg", 2),
    ("/data/Cecropia pachystachya/10.jpg", 1),
    ("Arecaceae/arecaceae_2.jpg", 0),
)


def image(index: int) -> np.ndarray:
    """The values of a record: random ones, and a constant for the last."""
    if index == len(FILES) - 1:
        return np.full((HEIGHT, WIDTH, 3), 17.5, np.float32)
    generator = np.random.default_rng(index)
    return generator.uniform(0, 255, (HEIGHT, WIDTH, 3)).astype(np.float32)


def write() -> None:
    """Writes the file; the last tensor in the short form of a constant."""
    import tensorflow as tf  # pyright: ignore[reportMissingImports]

    def feature(value):
        if isinstance(value, int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    with tf.io.TFRecordWriter(str(PATH)) as writer:
        for index, (name, label) in enumerate(FILES):
            serialized = tf.io.serialize_tensor(image(index)).numpy()
            if index == len(FILES) - 1:
                proto = tf.make_tensor_proto(17.5, shape=(HEIGHT, WIDTH, 3))
                assert list(proto.float_val) == [17.5]
                serialized = proto.SerializeToString()
                assert np.array_equal(tf.io.parse_tensor(serialized, tf.float32), image(index))
            features = {
                "label": label,
                "image": serialized,
                "height": HEIGHT,
                "width": WIDTH,
                "depth": 3,
                "filename": name.encode(),
            }
            entries = {key: feature(value) for key, value in features.items()}
            example = tf.train.Example(features=tf.train.Features(feature=entries))
            writer.write(example.SerializeToString())


if __name__ == "__main__":
    write()
