"""A simulated barn: collars that publish document 0's messages, and the truth about them."""
