"""The verbs beside `fit`, one thin file each."""
