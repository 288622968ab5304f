"""The main job on the local cluster, from `kubectl apply` to an answer, as a user would do it."""
