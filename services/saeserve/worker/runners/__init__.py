"""One runner a job kind; they run in the job process, the only place where torch lives."""
