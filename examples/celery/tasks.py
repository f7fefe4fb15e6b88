"""What workers do. Where Redis is comes from the environment: `seaway config set REDIS_URL=...`."""

import os
from collections import Counter

from celery import Celery

app = Celery("tasks", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])
app.conf.update(
    broker_connection_retry_on_startup=True,  # a worker that starts before Redis waits for it
    task_acks_late=True,  # a task whose worker dies is done by another one
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    result_expires=3600,
    beat_schedule={"beat": {"task": "tasks.note_beat", "schedule": float(os.environ.get("BEAT_EVERY", "60"))}},
)


@app.task
def count_words(text: str) -> dict[str, int]:
    return dict(Counter(text.split()))


@app.task
def note_beat() -> None:
    """Done every BEAT_EVERY seconds, if celery-beat runs."""
