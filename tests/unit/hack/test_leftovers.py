"""What is taken from a machine at the end: the cluster's rules and chains, nobody else's."""

from hack.cluster.leftovers import removal

SAVED = """# Generated
*nat
:PREROUTING ACCEPT [0:0]
:DOCKER - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-ABC - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -j DOCKER
-A DOCKER -i docker0 -j RETURN
-A KUBE-SERVICES -d 10.96.0.1/32 -j KUBE-SVC-ABC
COMMIT
"""


def test_our_chains_are_flushed_before_they_are_deleted() -> None:
    lines = removal("nat", SAVED).splitlines()
    assert lines[0] == "*nat"
    assert lines[-1] == "COMMIT"
    assert lines.index(":KUBE-SVC-ABC - [0:0]") < lines.index("-X KUBE-SVC-ABC")
    assert lines.index(":KUBE-SERVICES - [0:0]") < lines.index("-X KUBE-SERVICES")


def test_a_rule_that_leads_to_our_chain_is_deleted() -> None:
    expected = '-D PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES'
    assert expected in removal("nat", SAVED).splitlines()


def test_the_rules_of_others_stay() -> None:
    assert "DOCKER" not in removal("nat", SAVED)


def test_a_table_without_our_chains_is_left_alone() -> None:
    assert removal("nat", "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j DOCKER\nCOMMIT\n") == ""
