"""The cluster at one look: a process of its own that reads nodes' status and drives nothing."""
