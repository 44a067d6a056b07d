/* Virtual sockets in a guest. "connect PORT" sends standard input to that port of the host, and what comes back to
 * standard output; "listen PORT" takes one connection and echoes it. */
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static char buffer[64 << 10];

static void copy(int from, int to)
{
	ssize_t got, sent, n;

	while ((got = read(from, buffer, sizeof buffer)) > 0)
		for (sent = 0; sent < got; sent += n)
			if ((n = write(to, buffer + sent, got - sent)) <= 0) {
				perror("write");
				exit(1);
			}
	if (got < 0) {
		perror("read");
		exit(1);
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_vm address = { .svm_family = AF_VSOCK };
	int s = socket(AF_VSOCK, SOCK_STREAM, 0);

	if (argc != 3)
		return 2;
	address.svm_port = atoi(argv[2]);
	if (!strcmp(argv[1], "connect")) {
		address.svm_cid = VMADDR_CID_HOST;
		if (connect(s, (struct sockaddr *)&address, sizeof address)) {
			perror("connect");
			return 1;
		}
		copy(0, s);
		shutdown(s, SHUT_WR);
		copy(s, 1);
		return 0;
	}
	address.svm_cid = VMADDR_CID_ANY;
	if (bind(s, (struct sockaddr *)&address, sizeof address) || listen(s, 4)) {
		perror("listen");
		return 1;
	}
	printf("listening\n");
	fflush(stdout);
	s = accept(s, NULL, NULL);
	copy(s, s);
	return 0;
}
