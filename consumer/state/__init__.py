"""The pure core: what is known of repositories, and how verified input changes it."""
