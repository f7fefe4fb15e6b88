"""Labels and annotations of what runs in the cluster; engine and logs read the same ones."""

from __future__ import annotations

from seaway.kube.kinds import GROUP

MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "seaway"
SELECTOR = f"{MANAGED_BY}={MANAGER}"
"""Label selector of all that the engine makes."""

APP, RELEASE, PROCESS, TEAM = (f"{GROUP}/{word}" for word in ("app", "release", "process", "team"))
KIND = f"{GROUP}/kind"  # label: what an object is of
INSTANCE, TASK, FENCE, INPUT = "instance", "task", "team", "input"
TASK_ID = f"{GROUP}/task"  # annotation: a one-off's id
TASK_ATTACHED = f"{GROUP}/attached"  # annotation of a Job: "true" if it ends with who waits for it
TASK_INPUT = f"{GROUP}/input"  # annotation of a Job: the Secret with what its command reads, if it reads anything
TASK_STREAMS = f"{GROUP}/streams"  # annotation of a Job: how its command is connected with somebody, if it is
TASK_STREAMED = f"{GROUP}/streamed"  # annotation of a Job: how far that is
TASK_TERMINAL = f"{GROUP}/terminal"  # annotation of a pod: "true" if its command has a terminal, and no logs

CONTAINER = "app"
"""The name of the one container of a pod."""
