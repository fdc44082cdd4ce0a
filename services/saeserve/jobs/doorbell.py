"""Doorbells: Celery messages that wake a worker of a resource class, and carry no more.

Celery on Redis loses and duplicates messages, so a message is a hint: the woken worker asks the
index for a job, and the reconciler rings again while jobs wait and no ring does.
"""

from __future__ import annotations

import redis
from celery import Celery
from kombu.exceptions import OperationalError

from saeserve.jobs.errors import IndexUnavailable
from saeserve.jobs.redis_scripts import reaching

RING = "saeserve.ring"
"""Name of the task; its one argument is the resource class."""

SETTINGS: dict[str, object] = {
    # One process is lease keeper, supervisor and /metrics; torch lives in a child of it. Threads,
    # because a solo worker is deaf while a task runs and prefork children cannot have children.
    "worker_pool": "threads",
    "worker_concurrency": 1,
    # Early: a ring that dies with its worker is rung again by the reconciler. Late acks would
    # bring every ring of a long job back after the visibility timeout.
    "task_acks_late": False,
    "task_reject_on_worker_lost": False,
    # A busy worker must not hold the ring that an idle one could answer. The multiplier alone
    # still holds one under early acks; disabling prefetch (Redis brokers only) holds none.
    "worker_prefetch_multiplier": 1,
    "worker_disable_prefetch": True,
    # The job record holds results; Celery's would expire and contradict it.
    "result_backend": None,
    "task_ignore_result": True,
    "task_store_errors_even_if_ignored": False,
    "task_track_started": False,
    # Never unpickle what comes from the broker.
    "task_serializer": "json",
    "accept_content": ["json"],
    # True is the coming default, and kills the running task on a short broker outage.
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    # Wait for the broker however long it takes, at start and later.
    "broker_connection_retry": True,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    # A server that answers but refuses (a failover, a full disk, too few replicas) is waited for
    # as one that is away; otherwise the refusal ends the worker.
    "broker_channel_error_retry": True,
    # A cancel request is durable in the store and read with the heartbeat; broadcasts are not.
    "worker_enable_remote_control": False,
    "worker_send_task_events": False,
    # Logging is the platform's.
    "worker_hijack_root_logger": False,
    "worker_redirect_stdouts": False,
    # Rings are published once: the caller hears at once that the broker is away.
    "task_publish_retry": False,
    "broker_connection_timeout": 3,
    "broker_transport_options": {
        # Only covers the moment between delivery and the early ack.
        "visibility_timeout": 60,
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        # One list a queue: doorbells have no priority, jobs have.
        "priority_steps": [0],
        "socket_keepalive": True,
        "socket_connect_timeout": 3,
        # Above kombu's BRPOP of a second, and what a ring into a frozen broker may take.
        "socket_timeout": 5,
        # Finds a half-open connection in under a minute, although BRPOP never writes.
        "health_check_interval": 25,
        # Of a publish, on top of the first try; kombu's default is a hundred.
        "max_retries": 1,
        "interval_start": 0,
        "interval_step": 0,
    },
}

WORKER_OPTIONS: dict[str, object] = {
    # Workers have nothing to tell each other; this saves a second at the start, and traffic.
    "without_mingle": True,
    "without_gossip": True,
    "without_heartbeat": True,
}
"""For `app.Worker(...)`: what Celery has no setting for."""


def queue_name(resource_class: str) -> str:
    """The queue that workers of the class consume; also its key in Redis."""
    return f"saeserve.{resource_class}"


def broker_url(redis_url: str) -> str:
    """The broker URL in kombu's spelling: `unix://` becomes `redis+socket://`."""
    scheme, separator, rest = redis_url.partition("://")
    return f"redis+socket://{rest}" if separator and scheme == "unix" else redis_url


def celery_app(redis_url: str) -> Celery:
    """The Celery application, the same for the one that rings and the workers that wake."""
    app = Celery("saeserve", broker=broker_url(redis_url), set_as_current=False)
    app.conf.update(SETTINGS)
    return app


class CeleryDoorbell:
    """Implements `ports.Doorbell`."""

    def __init__(self, app: Celery, client: redis.Redis) -> None:
        """`client` reaches the same server and database as the app's broker."""
        self._app = app
        self._client = client

    def ring(self, resource_class: str) -> None:
        """Wake a worker of the class. Raises IndexUnavailable when the broker is out of reach."""
        try:
            with reaching("broker"):
                self._app.send_task(
                    RING, args=(resource_class,), queue=queue_name(resource_class), retry=False
                )
        except OperationalError as error:
            raise IndexUnavailable(f"the broker is out of reach: {error}") from error

    def waiting(self, resource_class: str) -> int:
        """Rings not yet delivered. Raises IndexUnavailable."""
        with reaching("broker"):
            return self._client.llen(queue_name(resource_class))
