"""What is expected of stories that are told with a fault."""

from tests.campaign.faults_tried import Pattern, tries_of


def test_a_worker_that_is_not_heard_may_go_with_what_it_knew() -> None:
    tries = tries_of("scale", (), (), 1)
    of_workers = [tried for tried in tries if tried.pattern is Pattern.WORKER]
    assert of_workers
    assert all(tried.loses_reports for tried in of_workers)
