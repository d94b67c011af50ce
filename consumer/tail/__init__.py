"""From the relay's socket to chive.firehose: subscription, relevance, the tailer's loop."""
