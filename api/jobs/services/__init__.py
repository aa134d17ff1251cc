"""Every write of the job state machine, one idea a file. Each function is one transaction."""
