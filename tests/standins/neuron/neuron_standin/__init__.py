"""What the stand-ins of the Neuron SDK share and the real packages do not have: a machine without devices that may be
given some, failures that may be asked for, and a record of what everything was called with.

| variable | what it does |
| --- | --- |
| `NEURON_STANDIN_DEVICES` | how many Neuron devices there are; none without it, but for files `/dev/neuron0` … |
| `NEURON_STANDIN_CORES` | the same in logical cores; in a pod `$(NEURON_RT_NUM_CORES)`, a number where it has devices |
| `NEURON_STANDIN_FAIL` | what goes wrong, separated by commas: see `failures.py` |
| `NEURON_STANDIN_STATE` | the folder that counts failures across processes |
| `NEURON_STANDIN_LOG` | the file that takes the record, one JSON object a line |
"""
