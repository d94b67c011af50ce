// What a reader does with the types: one line for each event and operation.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log"
	"os"

	"chive.pub/types/chive"
)

func parsed[T any](line []byte) T {
	var found T
	if err := json.Unmarshal(line, &found); err != nil {
		log.Fatal(err)
	}
	return found
}

func text(value *string) string {
	if value == nil {
		return "-"
	}
	return *value
}

func event(line []byte) string {
	kind := parsed[struct{ Type string }](line)
	switch kind.Type {
	case "record":
		one := parsed[chive.RecordEvent](line)
		return fmt.Sprintf("record %s %s %s %s", one.URI, one.Action, text(one.Cid), one.Source)
	case "account":
		one := parsed[chive.AccountEvent](line)
		return fmt.Sprintf("account %s %t %s", one.Did, one.Active, one.Status)
	case "identity":
		one := parsed[chive.IdentityEvent](line)
		return fmt.Sprintf("identity %s %s", one.Did, text(one.Handle))
	case "sync":
		one := parsed[chive.SyncEvent](line)
		return fmt.Sprintf("sync %s %s %s", one.Did, one.State, text(one.Reason))
	case "progress":
		one := parsed[chive.ProgressEvent](line)
		return fmt.Sprintf("progress %d %d", one.Lane, one.Seq)
	default:
		return "unknown"
	}
}

func operation(line []byte) string {
	one := parsed[chive.Operation](line)
	done := "-"
	if one.Children != nil {
		done = fmt.Sprint(one.Children.Done)
	}
	return fmt.Sprintf("operation %s %s %s %s", one.ID, one.Type, one.Status, done)
}

func each(name string, show func([]byte) string) {
	file, err := os.Open(name)
	if err != nil {
		log.Fatal(err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		fmt.Println(show(lines.Bytes()))
	}
}

func main() {
	each(os.Args[1], event)
	each(os.Args[2], operation)
}
