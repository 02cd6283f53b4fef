"""Files of images: headers, sections read where they lie, and lazy arrays over many of them."""
