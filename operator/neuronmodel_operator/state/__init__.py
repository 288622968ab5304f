"""What exists for one NeuronModel and what is to be done about it, as data: nothing here decides or performs I/O."""
