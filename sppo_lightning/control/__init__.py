"""SPO beyond language: policies of continuous-control tasks, trained by preferences between whole trajectories."""
