"""`segcam demo`: runs of bundled networks, images and a scan, and a page that shows them."""
