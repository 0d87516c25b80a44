"""Export of a trained generator to the files that people deploy, each proved equal to it first."""
