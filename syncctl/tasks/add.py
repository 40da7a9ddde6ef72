"""The connectivity check: a number goes through the queue and a worker and comes back."""

from celery import Task, shared_task

from syncctl.celery_app import find_app


@shared_task(name="syncctl.add", ignore_result=False)
def add(x: float, y: float) -> float:
    """Return x + y."""
    return x + y


@shared_task(name="syncctl.add_and_sign", ignore_result=False, bind=True)
def add_and_sign(self: Task, x: float, y: float) -> dict[str, object]:
    """Return x + y and the name of the worker that added them, signed: their reader does not trust Redis either."""
    result = {"sum": x + y, "worker": self.request.hostname}
    return {**result, "signature": find_app().seal.sign_result(self.request.id, result)}
