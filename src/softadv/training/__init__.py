"""Training: methods, the loop, its state, the partition, evaluation; knows no grid."""
