"""What tests share: real services, faults, waiting."""
