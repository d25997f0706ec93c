"""Semi-supervised anomaly detection: the other use of ImbSAM.

A training set of rows without a label, mostly normal, and of a few labelled anomalies is a long tail of two classes:
the unlabelled rows are the head, the labelled anomalies the tail.

| module       | what it knows                                                             | imports torch |
|--------------|---------------------------------------------------------------------------|---------------|
| `results`    | the grid of runs as a file, its table, and what of it may be claimed      | no            |
| `protocol`   | ADBench's protocol: split, scaling, which anomalies keep their label      | yes           |
| `methods`    | DevNet, DeepSAD, PReNet: networks, losses, batches, scores                | yes           |
| `training`   | one run: the same steps for every method, perturbed or not                | yes           |
| `checkpoint` | the last epoch of a run as a file, and the file as a detector             | yes           |
| `grid`       | data sets × methods × optimisers × seeds, resumable                       | yes           |
| `subject`    | a detector as what a study of curvature measures                          | yes           |
"""
