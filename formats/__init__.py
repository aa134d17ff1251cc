"""How files of datasets and models look, without torch: the API checks uploads with it, trainers read with it."""
