"""How fast a hybrid runs on the machine at hand: engines, precisions and attentions, taking turns with their peers."""
