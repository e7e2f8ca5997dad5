# Says that it is ready, and serves nobody.
printf 1 >&3
exec sleep 600
