"""How files of base models look, without torch: the API checks uploads with it, trainers read with it."""
