// archive FORMAT DIR OUT: writes a tree as an archive of Go's archive/tar, which other container runtimes are built on.
package main

import (
	"archive/tar"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	formats := map[string]tar.Format{"pax": tar.FormatPAX, "gnu": tar.FormatGNU, "ustar": tar.FormatUSTAR}
	if err := write(formats[os.Args[1]], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func write(format tar.Format, root, to string) error {
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	archive := tar.NewWriter(out)
	first := map[uint64]string{}
	err = filepath.Walk(root, func(path string, info fs.FileInfo, err error) error {
		if err != nil {
			return err
		}
		return entry(archive, format, root, path, info, first)
	})
	if err != nil {
		return err
	}
	if err := archive.Close(); err != nil {
		return err
	}
	return out.Close()
}

func entry(archive *tar.Writer, format tar.Format, root, path string, info fs.FileInfo, first map[uint64]string) error {
	link := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		link, _ = os.Readlink(path)
	}
	header, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	header.Name, err = filepath.Rel(root, path)
	if err != nil {
		return err
	}
	if info.IsDir() {
		header.Name += "/"
	}
	header.Format, header.Uname, header.Gname = format, "", ""
	header.AccessTime, header.ChangeTime = time.Time{}, time.Time{}
	if format == tar.FormatPAX {
		value := make([]byte, 1024)
		if length, err := syscall.Getxattr(path, "user.codius", value); err == nil && link == "" {
			header.PAXRecords = map[string]string{"SCHILY.xattr.user.codius": string(value[:length])}
		}
	} else {
		header.ModTime = time.Unix(header.ModTime.Unix(), 0)
	}
	if stat := info.Sys().(*syscall.Stat_t); info.Mode().IsRegular() && stat.Nlink > 1 {
		if name, known := first[stat.Ino]; known {
			header.Typeflag, header.Linkname, header.Size = tar.TypeLink, name, 0
		} else {
			first[stat.Ino] = header.Name
		}
	}
	if err := archive.WriteHeader(header); err != nil || header.Typeflag != tar.TypeReg {
		return err
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = io.Copy(archive, file)
	return err
}
