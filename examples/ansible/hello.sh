#!/bin/sh
# Run by playbook.yml in each guest.
echo "hello from $(hostname)"
