"""What the `melbandit` command runs."""
