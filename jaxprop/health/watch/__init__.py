"""Early warning: detectors look for symptoms in a run's records, and the watch turns them into alerts."""
