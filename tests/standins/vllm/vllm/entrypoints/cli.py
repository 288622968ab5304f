"""The command `vllm`."""

from neuron_standin.record import record

from vllm.config import make_config, parser
from vllm.plugins import load_general_plugins, platform


def main() -> int:
    """Plugins come before the arguments, and once more with them."""
    load_general_plugins()
    given = parser().parse_args()
    load_general_plugins()
    config = make_config(given)
    platform().check_and_update_config(config)
    record("vllm", arguments={name: value for name, value in vars(given).items() if name != "command"})

    from vllm.entrypoints.api_server import run_server

    run_server(config, given.host or "0.0.0.0", given.port)
    return 0
