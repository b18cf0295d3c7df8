"""Audio with transcripts: files of one's own, generated words, and numbers spoken by espeak-ng."""
