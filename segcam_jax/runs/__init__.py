"""Many explanations, resumed: a study of many images, read ahead, computed in batches, stored."""
