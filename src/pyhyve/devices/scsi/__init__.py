"""SCSI devices without their transport: command blocks in, results out."""
