"""Instances as pods: one ReplicaSet for each process of a release, one-offs as Jobs, a namespace for each team.

`settings` what it is told, `names` and `manifests` and `teams` (pure) what is written, `objects` the fields that are
read, `instances`, `reasons`, `nodes`, `tasks`, `reading`, `usage` (pure) what they mean, `retiring` (pure) who goes,
`watched` caches, `picture` what they amount to, `measuring` looks at what they use, `preparing`, `applying` and
`running` the writes, `guarding` what is put back and cleared away, `access` the rights for it, `engine` the whole.
"""

from seaway.engine.kubernetes.engine import KubernetesEngine
from seaway.engine.kubernetes.settings import KubernetesEngineSettings

__all__ = ["KubernetesEngine", "KubernetesEngineSettings"]
