"""NxD Inference's NeuronConfig: the fields it has, what the library derives from them, and what it refuses.

Everything here follows the public source of NxD Inference 0.9.0. Nothing here depends on a layout or an engine:
layouts, engines and commands all use this package, so that they refuse the same fields by the same table.
"""
