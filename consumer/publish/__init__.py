"""From decisions to topics: the event envelope and the lane publisher."""
