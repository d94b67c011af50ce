module chive.pub/types

go 1.24.0
