# Read by the guest's shell before a command: `. tests/vm/enter.sh SITE`. Makes this checkout the
# installed program: `python3` sees it and the packages in SITE, `edge-agent` starts it.
environment=/opt/edge-agent
if [ ! -d "$environment" ]; then
    python3 -m venv --without-pip "$environment"
    printf '%s\n' "$1" /mnt/project >"$environment/lib/python3.11/site-packages/checkout.pth"
    cat >"$environment/bin/edge-agent" <<'SCRIPT'
#!/opt/edge-agent/bin/python3
import sys

from agent.cli import main

sys.exit(main())
SCRIPT
    chmod +x "$environment/bin/edge-agent"
    ln -s "$environment/bin/edge-agent" /usr/bin/edge-agent  # where the unit looks for it
    # Recordings that lie beside the checkout lie beside it here too.
    if [ -d /mnt/project/.vm/shared ]; then ln -s /mnt/project/.vm/shared /mnt/shared; fi
fi
export PATH="$environment/bin:$PATH" PYTHONDONTWRITEBYTECODE=1
