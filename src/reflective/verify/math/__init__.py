"""Kind "math": whether two final answers are the same mathematics."""
